"""Lightning callbacks: index refresh and masking schemes."""
