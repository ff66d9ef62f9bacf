"""What is there: raw objects become what planning and status look at."""
