"""Records of runs, and how they are kept: journal, database, repositories."""
