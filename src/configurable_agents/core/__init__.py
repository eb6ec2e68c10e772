"""What will happen: the compiled plan, its pure decisions, and one node's execution."""
