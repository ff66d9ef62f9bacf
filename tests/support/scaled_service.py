"""A service of an API server in memory, with an autoscaler, and real HTTP to what stands for its router."""

from __future__ import annotations

from penstock.internal.fleet import FleetEndpoint, RouterTotals
from penstock_operator.autoscale.loop import Autoscaler, Outlets
from penstock_operator.autoscale.scrape import Scraper
from penstock_operator.kinds import POD, ROLE_SCALER
from penstock_operator.names import COMPONENT, ROUTER, Key
from support.fleet_teller import FleetTeller
from support.operator_run import OperatorRun

SERVICE = """
apiVersion: penstock.dev/v1alpha1
kind: InferenceService
metadata: {name: chat}
spec:
  model: {source: hf://org/model}
  decode: {}
  autoscaling: {mode: MODE, decode: {min: 1, max: 5}, scaleToZeroAfter: 10m}
"""


class Scaled:
    """A service that is ready, and everything that watches it."""

    def __init__(self, mode: str, teller: FleetTeller):
        self.run, self.teller, self.decided = OperatorRun(), teller, []
        self.key: Key = self.run.create(SERVICE.replace("MODE", mode))
        self.run.settle()
        self.build()
        self.scraper = Scraper(lambda: self.run.now)

    def build(self) -> None:
        """A new autoscaler over the same cluster."""
        self.autoscaler = Autoscaler(
            self.run.store,
            self.run.api,
            Outlets(decided=lambda service, one: self.decided.append(one.message), turned=self.run.queue.add),
            seconds=0.01,
            may_write=lambda: self.run.may_write,
            clock=lambda: self.run.now,
        )
        self.run.reconciler._scaling = self.autoscaler.scaling

    @property
    def pods(self) -> list[dict]:
        return [pod for pod in self.run.api.all(POD) if pod["metadata"]["labels"][COMPONENT] != ROUTER]

    @property
    def request(self) -> int:
        return self.run.api.find(ROLE_SCALER, "chat-both")["spec"]["replicas"]

    async def look(self, times: int = 1, *, held: int = 0, **load: float) -> None:
        """The router tells of these pods, two seconds apart."""
        for _ in range(times):
            self.run.work()
            self.run.cluster.step()
            for pod in self.run.api.all(POD):
                if pod["metadata"]["labels"][COMPONENT] == ROUTER:
                    status = {"status": {"podIP": self.teller.address}}
                    self.run.api.update(POD, "default", pod["metadata"]["name"], status)
            self.run.now += 2.0
            self.teller.router = RouterTotals(held=held, in_flight=held)
            self.teller.endpoints = [
                FleetEndpoint(
                    name=pod["metadata"]["name"], role="both", url="http://x", state="ready", max_num_seqs=64, **load
                )
                for pod in self.pods
                if pod["status"].get("conditions")
            ]
            await self.autoscaler.turn(self.scraper)
        self.run.work()
