"""The addresses of models in Letta's database, and how they follow the settings.

Letta writes a provider's address into ``providers`` at its first start, and from there into each new agent and archive;
afterwards it looks at none of its settings again. ::

    providers    brings Letta's own providers to the configured address at the start
    holders      agents and archives by the address they hold; moves them to another one
    command      letta-server repoint
"""
