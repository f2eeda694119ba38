"""What went wrong between ranks, in words: who differs, where in the user's program, and why."""
