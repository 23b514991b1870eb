"""Netty's pools."""


class NettyReader:
    def __init__(self, *a):
        pass

    def pools(self, *a):
        return ()
