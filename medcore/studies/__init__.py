"""What each notebook does beyond the rest: one room for each study."""
