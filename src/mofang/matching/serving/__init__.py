"""Serving: what a deployment of a model does under its traffic, how sure that is, and which deployment is best.

>>> result = match_service(scenario, pools)
>>> result.plans[0].service.estimate.tpot_s
"""

from mofang.matching.serving.search import match_service

__all__ = ["match_service"]
