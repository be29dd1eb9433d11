"""`explorer bench`: what is measured, where it is printed, and how it compares with another commit."""
