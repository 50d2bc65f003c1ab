"""The daemon over HTTP: its page, its metrics, whether it is well, and the wire as a WebSocket.

Needs the extra ``web``. What is served is made here of what the daemon hands over (`watched`);
nothing in here changes anything.
"""
