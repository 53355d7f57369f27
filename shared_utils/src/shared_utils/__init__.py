"""What more than one service of the Letta memory bridge needs."""
