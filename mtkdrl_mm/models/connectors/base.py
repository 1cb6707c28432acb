# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Base class of the connectors."""

from abc import ABCMeta, abstractmethod

from mmengine.model import BaseModule

from mtkdrl_mm.structures import NetworkOutput, Projection


class Connector(BaseModule, metaclass=ABCMeta):
    """Brings the student's features to one teacher's shape, r_m.

    There is one connector per teacher. Each is given the student's own
    features, never what another connector made of them. Connectors are trained
    with the student and are not needed once training is over.

    Subclasses implement :meth:`forward`.
    """

    @abstractmethod
    def forward(self, student: NetworkOutput, teacher: NetworkOutput) -> Projection:
        """Project the student's features, and pick the teacher's to compare with.

        Args:
            student (NetworkOutput): The student's outputs for B images.
            teacher (NetworkOutput): The teacher's outputs for the same images.

        Returns:
            Projection: r_m(F^S) and F^m, of the same shape
            (B, c_m, h_m, w_m) or (B, d_m), with a ``stem`` if the connector
            starts with a linear map. Without it, AE-KD needs a backward pass
            through the connector.
        """
