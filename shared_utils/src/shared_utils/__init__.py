"""Code that several services of the Letta memory bridge share."""
