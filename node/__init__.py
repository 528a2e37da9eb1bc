"""The shell: everything that awaits, listens, opens a file or reads a clock."""
