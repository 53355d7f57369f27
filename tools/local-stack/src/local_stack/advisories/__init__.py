"""What is published about Letta and the locked packages: one list, from which documents, tests and the audit are made.

``entries`` reads the list, ``csaf`` makes the VEX statement of it, ``page`` the tables of the security page, and
``audit`` compares it with the OSV database.
"""
