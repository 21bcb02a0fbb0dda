"""The store on a PostgreSQL server, which the nodes of many machines share."""
