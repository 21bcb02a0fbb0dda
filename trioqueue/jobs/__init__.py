"""What a job is: records and rules. Pure: no Trio, no I/O, no clock."""
