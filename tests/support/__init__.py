"""What tests share: servo directories, the agent, processes, badly behaved drivers."""
