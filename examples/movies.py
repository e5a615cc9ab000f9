"""Predict the stars that people give to films, and recommend films to them.

MovieLens latest small: 100 836 ratings, from half a star to five, that 610 users gave to 9 724
films.  Half of the films have fewer than four ratings, so most of what can be known of a rating are
the biases of user and film (Koren, Bell and Volinsky, 2009).  A network adds what they lack.

The network is an autoencoder: it reads all that one user has rated, squeezes it into a few numbers,
and returns a score of each film.  It is trained twice.  With the squared error of the ratings that
exist (Sedhain, Menon, Sanner and Xie, 2015), a score is a correction of the biases.  With the
cross-entropy of the films that the user has seen (Liang, Krishnan, Hoffman and Jebara, 2018), it is
the logarithm of the chance that the user chooses this film, and the highest are recommendations.

Four fifths of the ratings, drawn at random, are for training.  A tenth chooses the damping of the
biases and the epoch; the last tenth is the test set.

    python examples/movies.py [--data DIR] [--epochs 60] [--seed 0] [--backend cpu|cuda|auto]
                              [--out out]

The root mean squared error (RMSE) of the stars is printed beside those of the mean of all ratings
and of the biases.  Recall@10 is the share of a user's films in the test set that are among the ten
best films that the user has not rated elsewhere, averaged over users; it is printed beside that of
the most popular films.  The script reads ratings.csv and movies.csv from `--data` or GPUPROP_DATA.
Their publisher adds ratings from time to time, so there is no download that a checksum could check.
It draws a map of films and a user's recommendations, `out`/movies.png, and saves both networks,
`out`/movies_ratings.safetensors and `out`/movies_choices.safetensors.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from command_line import parse_arguments
from figures import Figure, record
from sklearn.metrics import recall_score, root_mean_squared_error
from texts import find

import gpuprop
import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.data import ArrayDataset, DataLoader

FOLDER = "movielens_latest_small/ml-latest-small"
PUBLISHER = "unpack https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
BEST = 10  # films that are recommended
DAMPINGS = (1, 2, 3, 5, 10)  # of the biases


class Ratings(NamedTuple):
    """The numbers of users and films (N,), and the stars (N,)."""

    user: np.ndarray
    film: np.ndarray
    stars: np.ndarray

    def part(self, rows: np.ndarray) -> Ratings:
        return Ratings(*(a[rows] for a in self))

    def of(self, table: np.ndarray) -> np.ndarray:
        """The entries (N,) of these ratings in a table (users, films)."""
        return table[self.user, self.film]

    def table(self, values: Any, shape: tuple[int, int]) -> np.ndarray:
        """A table (users, films) with values at these ratings, and 0 elsewhere."""
        filled = np.zeros(shape, "float32")
        filled[self.user, self.film] = values
        return filled


def read_ratings(path: Path) -> tuple[Ratings, np.ndarray]:
    """The ratings, and the identifiers of the films."""
    user, film, stars, _ = np.loadtxt(path, delimiter=",", skiprows=1).T
    identifiers, film = np.unique(film.astype(int), return_inverse=True)
    return Ratings(np.unique(user, return_inverse=True)[1], film, stars), identifiers


def read_films(path: Path, identifiers: np.ndarray) -> list[tuple[str, str]]:
    """The title and the first genre of each film."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = {int(row["movieId"]): row for row in csv.DictReader(file)}
    films = (rows[i] for i in identifiers)
    return [(film["title"], film["genres"].split("|")[0]) for film in films]


# ---- the biases ----------------------------------------------------------------------------------


def biases(train: Ratings, shape: tuple[int, int], damping: float, rounds: int = 10) -> np.ndarray:
    """The table ``mean + user bias + film bias`` that fits the ratings.

    A bias is the sum of what the others lack, divided by the number of ratings plus `damping`.
    """
    mean = train.stars.mean()
    user, film = np.zeros(shape[0]), np.zeros(shape[1])
    per_user, per_film = (np.bincount(numbers, minlength=n) + damping
                          for numbers, n in zip(train, shape, strict=False))
    for _ in range(rounds):
        lack = train.stars - mean - user[train.user]
        film = np.bincount(train.film, lack, shape[1]) / per_film
        lack = train.stars - mean - film[train.film]
        user = np.bincount(train.user, lack, shape[0]) / per_user
    return mean + user[:, None] + film


def rmse(ratings: Ratings, predicted: np.ndarray) -> float:
    """The root mean squared error of a table of predictions, which are 0.5 to 5 stars."""
    return root_mean_squared_error(ratings.stars, np.clip(ratings.of(predicted), 0.5, 5))


def best_biases(train: Ratings, held: Ratings, shape: tuple[int, int]) -> np.ndarray:
    """The biases with the damping that has the least error on the ratings held back."""
    tables = [biases(train, shape, damping) for damping in DAMPINGS]
    return min(tables, key=lambda table: rmse(held, table))


# ---- the network ---------------------------------------------------------------------------------


class Autoencoder(nn.Module):
    """Maps the seen films (B, films) and their residuals (B, films) to scores (B, films).

    A residual is what the biases lack.  `popularity` (films,) are the first scores.
    """

    def __init__(self, popularity: np.ndarray, width: int = 64) -> None:
        super().__init__()
        films = len(popularity)
        self.encoder = nn.Linear(2 * films, width, bias=False)
        self.decoder = nn.Linear(width, films, bias=False)
        self.bias = gpuprop.Parameter(gpuprop.tensor(popularity.astype("float32")))
        self.dropout = nn.Dropout(0.5)
        for layer in (self.encoder, self.decoder):
            nn.init.normal_(layer.weight, std=0.03)

    def forward(self, seen: Any, residual: Any) -> Any:
        length = gpuprop.sqrt(gpuprop.maximum(seen.sum(axis=1, keepdims=True), 1))
        x = gpuprop.concatenate([seen, residual], axis=1) / length
        return self.decoder(gpuprop.tanh(self.encoder(self.dropout(x)))) + self.bias


def squared_error(scores: Any, seen: Any, residual: Any) -> Any:
    return ((scores - residual)**2 * seen).sum() / seen.sum()


def choice_loss(scores: Any, seen: Any, residual: Any) -> Any:
    return -(F.log_softmax(scores, -1) * seen).sum() / seen.sum()


class Task(NamedTuple):
    """What the network learns from the tables of seen films and residuals."""

    name: str
    loss: Callable[[Any, Any, Any], Any]
    first: np.ndarray  # the scores (films,) before training
    error: Callable[[np.ndarray], float]  # of a table of scores, on the ratings held back


def run(seen: np.ndarray | None = None, residual: np.ndarray | None = None,
        task: Task | None = None) -> tuple:
    """(model, step, batches) of the training, as `gpuprop verify` takes it."""
    if seen is None or residual is None:
        seen = (gpuprop.random.uniform((128, 90)).numpy() < 0.2).astype("float32")
        residual = seen * gpuprop.random.normal(seen.shape).numpy()
    loss_of = squared_error if task is None else task.loss
    model = Autoencoder(np.zeros(seen.shape[1]) if task is None else task.first)
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)

    def step(seen: Any, residual: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(seen, residual), seen, residual)
        loss.backward()
        optimizer.step()
        return loss

    return model, step, DataLoader(ArrayDataset(seen, residual), 64, shuffle=True)


def scores_of(model: nn.Module, seen: np.ndarray, residual: np.ndarray) -> np.ndarray:
    model.eval()
    with gpuprop.no_grad():
        return model(gpuprop.tensor(seen), gpuprop.tensor(residual)).numpy()


def fitted(task: Task, seen: np.ndarray, residual: np.ndarray, epochs: int) -> Autoencoder:
    """A network with the weights of the epoch that has the least error."""
    model, step, batches = run(seen, residual, task)
    best, best_state = np.inf, model.state_dict()
    for epoch in range(1, epochs + 1):
        model.train()
        mean = np.mean([step(*batch).item() for batch in batches])
        error = task.error(scores_of(model, seen, residual))
        if error < best:
            best, best_state = error, model.state_dict()
        if epoch % max(1, epochs // 6) == 0:
            print(f"{task.name}: epoch {epoch:3d}/{epochs}: loss {mean:.4f}, held {error:.4f}, "
                  f"best {best:.4f}", flush=True)
    model.load_state_dict(best_state)
    return model


# ---- recommendations -----------------------------------------------------------------------------


def recommend(scores: np.ndarray, rated: np.ndarray) -> np.ndarray:
    """The ten films (users, 10) with the highest scores that the user has not rated, best first."""
    left = np.where(rated > 0, np.inf, -scores)
    best = np.argpartition(left, BEST, axis=1)[:, :BEST]
    order = np.argsort(np.take_along_axis(left, best, axis=1), axis=1)
    return np.take_along_axis(best, order, axis=1)


def recall(recommended: np.ndarray, wanted: np.ndarray) -> float:
    """The share of wanted films (users, films) that are recommended: the mean of all users."""
    chosen = np.zeros(wanted.shape, bool)
    np.put_along_axis(chosen, recommended, True, axis=1)
    return recall_score(wanted > 0, chosen, average="samples", zero_division=np.nan)


# ---- results -------------------------------------------------------------------------------------


def draw_map(axes: Any, vectors: np.ndarray, films: list[tuple[str, str]]) -> None:
    """The films, so that those with similar vectors (films, width) are near each other."""
    from sklearn.manifold import TSNE

    perplexity = min(12, len(vectors) // 3)
    tsne = TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=0)
    points = tsne.fit_transform(vectors)
    genres = [genre for _, genre in films]
    for genre in sorted(set(genres), key=genres.count, reverse=True):
        of = np.array([g == genre for g in genres])
        axes.scatter(*points[of].T, s=24, label=genre)
    for (title, _), point in zip(films, points, strict=True):
        axes.annotate(title[:26], point, fontsize=6, xytext=(3, 2), textcoords="offset points")
    axes.set(title="Films that the same people see are near each other", xticks=[], yticks=[])
    axes.margins(x=0.08)
    axes.legend(title="first genre", fontsize=8)


def draw_choices(axes: Any, titles: list[str], chances: np.ndarray, wanted: np.ndarray) -> None:
    """The films that are recommended to a user, and which of them the test set has."""
    places = range(len(titles))
    axes.barh(places, 100 * chances, color=np.where(wanted, "tab:green", "lightgray"))
    for place, title in zip(places, titles, strict=True):
        axes.annotate(title[:44], (0, place), fontsize=9, va="center", xytext=(4, 0),
                      textcoords="offset points")
    axes.set(title="Films for one user\ngreen: rated in the test set", yticks=[],
             xlabel="probability of a choice, %")
    axes.invert_yaxis()


def draw(path: Path, films: list[tuple[str, str]], model: Autoencoder, scores: np.ndarray,
         recommended: np.ndarray, wanted: np.ndarray) -> None:
    """A map of the most popular films, and the recommendations for an active user."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2.8, 1])
    popular = np.argsort(-model.bias.numpy())[:160]
    draw_map(left, model.decoder.weight.numpy()[popular], [films[i] for i in popular])
    user = np.argsort(-wanted.sum(axis=1))[len(wanted) // 10]
    best = recommended[user]
    chances = np.exp(F.log_softmax(scores[user], -1))[best]
    draw_choices(right, [films[i][0] for i in best], chances, wanted[user, best] > 0)
    figure.savefig(path, dpi=110)


def beside(measure: str, network: float, **others: float) -> Figure:
    """The network's figure and those of the baselines, which are printed."""
    names = {name.replace("_", " "): value for name, value in others.items()}
    print(f"{measure}: {network:.4f}", *(f"{name} {value:.4f}" for name, value in names.items()),
          sep=", ")
    return Figure(measure, network, 3, names)


def main() -> None:
    args = parse_arguments(__doc__, epochs=60)
    if not args.data:
        raise SystemExit("give the folder of ratings.csv and movies.csv with --data or "
                         f"GPUPROP_DATA; {PUBLISHER}")
    ratings, identifiers = read_ratings(find(args.data, FOLDER, "ratings.csv"))
    films = read_films(find(args.data, FOLDER, "movies.csv"), identifiers)
    backend = gpuprop.use(args.backend).backend
    gpuprop.manual_seed(args.seed)
    shape = (int(ratings.user.max()) + 1, len(films))
    print(f"{len(ratings.stars)} ratings, {shape[0]} users, {shape[1]} films, "
          f"backend {backend.name!r}", flush=True)

    order = np.random.default_rng(args.seed).permutation(len(ratings.stars))
    tenths = np.array_split(order, 10)
    train, held, test = map(ratings.part, (np.concatenate(tenths[:8]), tenths[8], tenths[9]))
    seen, held_seen, test_seen = (part.table(1, shape) for part in (train, held, test))
    base = best_biases(train, held, shape)
    residual = train.table(train.stars - train.of(base), shape)
    popularity = np.log(seen.sum(axis=0) + 1)

    stars = Task("ratings", squared_error, np.zeros(shape[1]),
                 lambda scores: rmse(held, base + scores))
    choices = Task("choices", choice_loss, popularity,
                   lambda scores: 1 - recall(recommend(scores, seen), held_seen))
    models = [fitted(task, seen, residual, args.epochs) for task in (stars, choices)]
    correction, scores = (scores_of(model, seen, residual) for model in models)
    rated = seen + held_seen
    recommended = recommend(scores, rated)
    popular = recommend(np.broadcast_to(popularity, shape), rated)

    args.out.mkdir(parents=True, exist_ok=True)
    for task, model in zip((stars, choices), models, strict=True):
        gpuprop.save(args.out / f"movies_{task.name}.safetensors", model.state_dict())
    draw(args.out / "movies.png", films, models[1], scores, recommended, test_seen)
    mean = np.full(shape, train.stars.mean())
    record(args.record,
           beside("RMSE of the ratings, stars", rmse(test, base + correction),
                  biases=rmse(test, base), mean_of_all_ratings=rmse(test, mean)),
           beside(f"recall@{BEST}", recall(recommended, test_seen),
                  most_popular_films=recall(popular, test_seen)))


if __name__ == "__main__":
    main()
