"""What is not the agent: simulators, drives and the reference endpoint."""
