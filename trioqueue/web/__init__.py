"""Who asks and who watches: HTTP. All of Quart and Hypercorn is in here."""
