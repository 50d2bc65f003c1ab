"""Offers ``twistd quoteshm``. This folder never has an ``__init__.py``: it is Twisted's."""

from twisted.application.service import ServiceMaker

quoteshm = ServiceMaker(
    name="quoteshm",
    module="quoteshm.service.daemon",
    description="Market data for every process on the machine.",
    tapname="quoteshm",
)
