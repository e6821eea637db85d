"""One step of PRSNet compiles for a TPU, whose compiler is one wheel, and passes the audit.

It needs Python 3.12 or 3.13 with libtpu (requirements-aot.lock) and skips elsewhere;
BONEAGE_REQUIRE_TPU_COMPILER=1 makes a skip a failure.
"""

import os

import pytest

from boneage_jax import config as c
from boneage_jax.accelerators import fits, targets, topology
from boneage_jax.errors import UserError


@pytest.mark.timeout(900)
def test_a_step_of_prsnet_for_a_tpu():
    try:
        topology.require_wheels(targets.parse('v5e'))
    except UserError as error:
        if os.environ.get('BONEAGE_REQUIRE_TPU_COMPILER') == '1':
            raise
        pytest.skip(str(error))
    config = c.load('configs/prsnet.py:tiny,row=full')[1]
    figures = fits.fits(config, 'v5e', largest=False, names=('training step',))
    step = figures['programs']['training step']
    assert step['forbidden'] == []
    assert step['fits'] == 'yes' and step['estimated_cycles'] > 0
    memory = step['memory']
    assert memory['state'] < memory['total'] < 100e6
    counted = {product['dtype']: product['count'] for product in step['products']}
    # Only the crops of parts are in float32: products that ask for it (models/parts.py).
    assert set(counted) == {'bf16', 'f32'} and counted['f32'] <= 4 < counted['bf16']
    assert step['moved_bytes'] > 0 and not step['collectives']
