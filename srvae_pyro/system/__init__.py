"""The machine: devices, processes, files, memory, the terminal, random streams, the Hub."""
