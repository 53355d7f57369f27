"""A small real language model and real embeddings on this machine's CPU, for tests that the scripted model cannot be.

Everything comes from the packages of ``requirements.lock``. ``./run test --real-model`` installs them into a folder of
their own, which only the processes of the model have on their path::

    files       the packages' folder, and the model's file, which is put together from them
    llama       llama.cpp's server
    servers     that server, the embeddings' and the proxy, as processes
    proxy       one OpenAI-compatible address for both
    tool_calls  tool calls that the model writes as bare JSON, in the form of the API
"""
