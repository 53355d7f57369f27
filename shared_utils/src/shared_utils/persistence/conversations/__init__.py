"""Conversations and their messages: the records, and what an application does with them."""
