"""Language models through langchain-core, one concern a module."""
