"""Models: scikit-learn, statsmodels, torch."""

from __future__ import annotations

from bench.states.state import State

STATES = (
    State(
        "a fitted pipeline",
        needs=("sklearn", "pandas"),
        cells="""
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

rng = np.random.default_rng(2)
data = pd.DataFrame({"age": rng.integers(18, 80, 200), "town": rng.choice(["Ulm", "Jena"], 200)})
bought = (data["age"] > 40).to_numpy(copy=True)

def halve(values):
    return values / 2
# %%
pipeline = Pipeline([
    ("columns", ColumnTransformer([("n", StandardScaler(), ["age"]), ("t", OneHotEncoder(), ["town"])])),
    ("halve", FunctionTransformer(halve)),
    ("model", LogisticRegression()),
]).fit(data, bought)
""",
        probes="""
pipeline.predict_proba(data.head(5)).tolist()
pipeline.score(data, bought)
pipeline["halve"].func is halve
""",
    ),
    State(
        "a forest, its search, and a class of one's own",
        needs=("sklearn",),
        cells="""
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

X = np.random.default_rng(3).normal(size=(120, 4))
y = (X[:, 0] > 0).astype(int)

class Clip(BaseEstimator, TransformerMixin):
    def __init__(self, limit=1.0):
        self.limit = limit
    def fit(self, X, y=None):
        return self
    def transform(self, X):
        return np.clip(X, -self.limit, self.limit)
# %%
search = GridSearchCV(
    make_pipeline(Clip(), RandomForestClassifier(10, random_state=0)), {"clip__limit": [0.5, 1.0]}, cv=2
).fit(X, y)
best = search.best_estimator_
clusters = KMeans(2, n_init=1, random_state=0).fit(X)
""",
        probes="""
search.predict(X[:5]).tolist(), search.best_params_
best is search.best_estimator_
clusters.predict(X[:5]).tolist()
best.named_steps["clip"].limit
""",
        unexamined={"search": "its times differ in every run; probed by what it predicts"},
    ),
    State(
        "statsmodels results",
        needs=("statsmodels", "pandas"),
        cells="""
import numpy as np
import pandas as pd
import statsmodels.api as sm
import statsmodels.formula.api as smf
rng = np.random.default_rng(4)
data = pd.DataFrame({"x": rng.normal(size=100)})
data["y"] = 2 * data["x"] + rng.normal(size=100)
fitted = smf.ols("y ~ x", data).fit()
logit = sm.GLM((data["y"] > 0).astype(int), sm.add_constant(data["x"]), family=sm.families.Binomial()).fit()
""",
        probes="""
fitted.params.to_dict(), fitted.rsquared
fitted.predict(pd.DataFrame({"x": [1.0, 2.0]})).tolist()
logit.params.to_dict()
fitted.model.formula
""",
        unexamined={"fitted": "results hold their time of making; probed by their figures", "logit": "as fitted"},
    ),
    State(
        "torch tensors and the graph behind them",
        needs=("torch",),
        cells="""
import torch
torch.manual_seed(5)
base = torch.arange(12.0).reshape(3, 4)
row, turned = base[1], base.t()
half, brain = torch.ones(3, dtype=torch.float16), torch.ones(3, dtype=torch.bfloat16)
sparse = torch.eye(3).to_sparse()
w = torch.ones(3, requires_grad=True)
(w * 2).sum().backward()
""",
        probes="""
row.data_ptr() - base.data_ptr()
row.add_(100) is row, base[1, 0].item(), turned[0, 1].item()
w.grad.tolist(), w.is_leaf
sparse.to_dense().sum().item()
torch.rand(1).item()
""",
        unexamined={"sparse": "probed as a dense one", "row": "probed with base", "turned": "probed with base"},
    ),
    State(
        "a torch model half way through training",
        needs=("torch",),
        cells="""
import torch
from torch import nn
torch.manual_seed(6)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Dropout(0.1))
        self.head = nn.Linear(16, 1)
        self.register_buffer("steps", torch.zeros(1))
    def forward(self, x):
        return self.head(self.body(x))

net = Net()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
x, y = torch.randn(64, 4), torch.randn(64, 1)
losses = []
# %%
def step():
    optimizer.zero_grad()
    loss = ((net(x) - y) ** 2).mean()
    loss.backward()
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
    return loss.item()

for _ in range(3):
    step()
""",
        probes="""
schedule.get_last_lr(), losses
optimizer.param_groups[0]["params"][0] is next(net.parameters())
schedule.optimizer is optimizer
step(), step(), len(losses)
net.training
""",
        unexamined={"schedule": "probed by the rate it gives", "_": "the loop's"},
    ),
    State(
        "a loss that waits for its backward",
        needs=("torch",),
        cells="""
import torch
w = torch.tensor([1.0, 2.0], requires_grad=True)
loss = (w**2).sum()
""",
        probes="""
loss.backward() or w.grad.tolist()
""",
        unexamined={"loss": "probed by its backward", "w": "probed by its gradient"},
    ),
    State(
        "data sets, loaders and hooks",
        needs=("torch",),
        cells="""
import torch
from torch.utils.data import DataLoader, TensorDataset
data = TensorDataset(torch.arange(10.0), torch.arange(10))
chance = torch.Generator().manual_seed(8)
loader = DataLoader(data, batch_size=4, shuffle=True, generator=chance)
layer = torch.nn.Linear(2, 2)
seen = []
def watch(module, args, output):
    seen.append(tuple(output.shape))
handle = layer.register_forward_hook(watch)
""",
        probes="""
[batch[0].tolist() for batch in loader]
layer(torch.ones(3, 2)).shape, seen
handle.remove() or layer(torch.ones(1, 2)).shape, len(seen)
""",
        unexamined={
            "handle": "probed by removing it",
            "loader": "probed by a pass",
            "data": "probed by the loader",
            "layer": "its weights are left to chance; probed by its hook",
        },
    ),
)
