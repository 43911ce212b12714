import numpy as np
from scipy.sparse import csr_matrix

from recbole_llminit.aggregation import aggregate_users


def test_mean_of_training_items_literally():
    values = np.array([[0, 0], [1, 10], [3, 30], [8, 80]], dtype=np.float32)
    interactions = csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=np.float32))
    users, has_value = aggregate_users(values, np.array([False, True, True, True]), interactions)
    assert users.tolist() == [[0, 0], [2, 20], [8, 80], [0, 0]]
    assert has_value.tolist() == [False, True, True, False]
    assert users.dtype == np.float32


def test_items_without_a_value_do_not_count():
    values = np.array([[0], [1], [0], [5]], dtype=np.float32)
    interactions = csr_matrix(np.array([[0, 1, 1, 1], [0, 0, 1, 0]], dtype=np.float32))
    users, has_value = aggregate_users(values, np.array([False, True, False, True]), interactions)
    assert users.tolist() == [[3], [0]]
    assert has_value.tolist() == [True, False]


def test_equals_a_loop_over_users():
    generator = np.random.default_rng(2)
    values = generator.normal(size=(40, 6)).astype(np.float32)
    dense = (generator.random((25, 40)) < 0.2).astype(np.float32)
    users, has_value = aggregate_users(values, np.ones(40, dtype=bool), csr_matrix(dense))
    for user in range(25):
        items = np.flatnonzero(dense[user])
        assert has_value[user] == bool(len(items))
        if len(items):
            np.testing.assert_allclose(users[user], values[items].mean(axis=0), rtol=1e-5, atol=1e-6)
