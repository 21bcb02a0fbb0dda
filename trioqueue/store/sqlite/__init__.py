"""Jobs in one SQLite file: durable at every commit, shared by the processes of one machine."""
