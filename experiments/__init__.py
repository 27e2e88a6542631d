"""Studies of the system itself; each reruns with one command."""
