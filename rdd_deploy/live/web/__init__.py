"""The web view: the live app's screen in a browser. Imported only with ``--serve``; needs aiohttp (extra ``web``)."""
