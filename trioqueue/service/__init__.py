"""The verbs, whoever asks for them: HTTP, the command line, schedules, tests. One class for each area."""
