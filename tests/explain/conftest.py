import pytest
import torch
from explained_networks import BUILDERS, PlainNet, TokenNet, bcos_net, calibrated


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Networks here are too small to gain from more, and threads disturb each other on shared machines."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=[name for name in BUILDERS if name != "tokens"])
def net_and_input(request):
    """A network in eval mode with spread-out statistics, and a batch for it."""
    return calibrated(request.param)


@pytest.fixture
def plain_net():
    return PlainNet().eval()


@pytest.fixture
def colour_net():
    return bcos_net(6).eval()


@pytest.fixture
def token_net():
    return lambda pool: TokenNet(pool).eval()
