"""The table of nodes: it holds what somebody refers to, and nothing else."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from fuse_s3_worker.fs.nodes import ROOT_ID, Node, Nodes, inode_number


def known(nodes: Nodes, parent: Node, name: str, *, directory: bool = False) -> Node:
    """Look a name up as the kernel does: it refers to the node from then on."""
    node = nodes.child(parent, name, directory=directory)
    node.nlookup += 1
    return node


def test_the_root_is_always_there() -> None:
    nodes = Nodes("some/prefix/")
    root = nodes.root
    assert (root.id, root.ino, root.key, root.parent) == (ROOT_ID, 1, "some/prefix/", None)
    nodes.forget(ROOT_ID, 100)
    nodes.drop_unused(root)
    assert nodes.get(ROOT_ID) is root
    assert len(nodes) == 1


def test_keys_are_paths_below_the_prefix() -> None:
    nodes = Nodes("pre/")
    directory = known(nodes, nodes.root, "d", directory=True)
    file = known(nodes, directory, "f")
    assert directory.key == "pre/d/"
    assert file.key == "pre/d/f"
    assert Nodes("").child(Nodes("").root, "f", directory=False).key == "f"


def test_a_name_is_one_node_until_it_becomes_something_else() -> None:
    nodes = Nodes("")
    file = known(nodes, nodes.root, "name")
    assert nodes.child(nodes.root, "name", directory=False) is file
    directory = known(nodes, nodes.root, "name", directory=True)
    assert directory.id != file.id
    assert file.gone
    assert not directory.gone
    assert nodes.root.children == {"name": directory}
    assert nodes.get(file.id) is file  # the kernel still refers to it
    nodes.forget(file.id, 1)
    assert nodes.get(file.id) is None
    assert nodes.root.children == {"name": directory}


def test_ids_are_never_used_again() -> None:
    nodes = Nodes("")
    seen = set()
    for _ in range(100):
        node = known(nodes, nodes.root, "name")
        assert node.id not in seen
        seen.add(node.id)
        nodes.forget(node.id, 1)


def test_a_node_lasts_as_long_as_the_last_reference() -> None:
    nodes = Nodes("")
    node = known(nodes, nodes.root, "name")
    node.nlookup += 2
    node.pins += 1
    nodes.forget(node.id, 2)
    assert nodes.get(node.id) is node
    nodes.forget(node.id, 1)
    assert nodes.get(node.id) is node
    nodes.unpin(node)
    assert nodes.get(node.id) is None
    assert nodes.root.children == {}


def test_forgetting_too_much_or_something_unknown_is_harmless() -> None:
    nodes = Nodes("")
    node = known(nodes, nodes.root, "name")
    nodes.forget(node.id, 1000)
    nodes.forget(node.id, 1)
    nodes.forget(4711, 1)
    assert len(nodes) == 1


def test_a_child_keeps_its_parents_and_takes_them_along() -> None:
    nodes = Nodes("")
    a = known(nodes, nodes.root, "a", directory=True)
    b = known(nodes, a, "b", directory=True)
    c = known(nodes, b, "c")
    nodes.forget(a.id, 1)
    nodes.forget(b.id, 1)
    assert len(nodes) == 4
    nodes.forget(c.id, 1)
    assert len(nodes) == 1
    assert nodes.root.children == {}


def test_a_detached_directory_stays_for_what_is_open_in_it() -> None:
    nodes = Nodes("")
    old = known(nodes, nodes.root, "d", directory=True)
    file = known(nodes, old, "f")
    file.pins += 1
    nodes.detach(old)
    new = known(nodes, nodes.root, "d", directory=True)
    nodes.forget(old.id, 1)
    nodes.forget(file.id, 1)
    assert nodes.get(old.id) is old
    nodes.unpin(file)
    assert nodes.get(old.id) is None
    assert nodes.root.children == {"d": new}


def test_detaching_ends_that_it_exists_because_of_this_mount() -> None:
    nodes = Nodes("")
    node = known(nodes, nodes.root, "d", directory=True)
    node.kept = 1
    assert node.local
    nodes.detach(node)
    assert node.gone
    assert not node.local


@given(st.text(), st.text())
def test_inode_numbers(a: str, b: str) -> None:
    assert inode_number(a) not in {0, 1}
    assert 0 < inode_number(a) < 1 << 64
    assert (inode_number(a) == inode_number(b)) == (a == b)


def test_an_inode_number_is_the_same_in_every_mount() -> None:
    """Programs remember it: this is BLAKE2b-64 of the key, with a bit set."""
    assert inode_number("dir/file") == 14_488_985_120_679_024_803
    assert inode_number("dir/other") == 6_197_517_466_067_847_238


class NodesMachine(RuleBasedStateMachine):
    """The kernel, and ourselves, refer to nodes and let go of them, in any order."""

    nodes_seen = Bundle("nodes_seen")

    def __init__(self) -> None:
        super().__init__()
        self.nodes = Nodes("")
        self.lookups: dict[Node, int] = {}
        self.pins: dict[Node, int] = {}

    def _alive(self, node: Node) -> bool:
        """Tell whether the kernel can send something about it."""
        return node is self.nodes.root or bool(self.lookups.get(node) or self.pins.get(node))

    @rule(target=nodes_seen, name=st.sampled_from("abc"), directory=st.booleans())
    def look_up_in_the_root(self, name: str, *, directory: bool) -> Node:
        return self._look_up(self.nodes.root, name, directory=directory)

    @rule(
        target=nodes_seen, parent=nodes_seen, name=st.sampled_from("abc"), directory=st.booleans()
    )
    def look_up(self, parent: Node, name: str, *, directory: bool) -> Node:
        if not self._alive(parent) or not parent.is_directory or parent.gone:
            parent = self.nodes.root
        return self._look_up(parent, name, directory=directory)

    def _look_up(self, parent: Node, name: str, *, directory: bool) -> Node:
        node = known(self.nodes, parent, name, directory=directory)
        self.lookups[node] = self.lookups.get(node, 0) + 1
        return node

    @rule(node=nodes_seen, count=st.integers(1, 3))
    def forget(self, node: Node, count: int) -> None:
        count = min(count, self.lookups.get(node, 0))
        self.nodes.forget(node.id, count)
        self.lookups[node] = self.lookups.get(node, 0) - count

    @rule(node=nodes_seen)
    def pin(self, node: Node) -> None:
        if self._alive(node):
            node.pins += 1
            self.pins[node] = self.pins.get(node, 0) + 1

    @rule(node=nodes_seen)
    def unpin(self, node: Node) -> None:
        if self.pins.get(node):
            self.pins[node] -= 1
            self.nodes.unpin(node)

    @rule(node=nodes_seen)
    def remove(self, node: Node) -> None:
        self.nodes.detach(node)

    @rule(name=st.sampled_from("abc"), directory=st.booleans())
    def make_and_fail(self, name: str, *, directory: bool) -> None:
        """What is made may come to nothing before the kernel hears of it."""
        if name not in self.nodes.root.children:
            self.nodes.drop_unused(self.nodes.child(self.nodes.root, name, directory=directory))

    @invariant()
    def it_holds_what_is_referred_to_and_nothing_else(self) -> None:
        referred = {n for table in (self.lookups, self.pins) for n, count in table.items() if count}
        wanted, allowed = {self.nodes.root, *referred}, {self.nodes.root, *referred}
        for node in referred:
            wanted.update(self._parents(node, in_place=True))
            allowed.update(self._parents(node, in_place=False))
        assert wanted <= set(self.nodes) <= allowed
        for node in wanted:
            assert self.nodes.get(node.id) is node
            if node.parent is not None and node.parent in wanted:
                in_place = node.parent.children.get(node.name) is node
                assert in_place != node.gone
        for node in self.nodes:
            assert all(child in allowed for child in node.children.values())

    def _parents(self, node: Node, *, in_place: bool) -> list[Node]:
        """Return the nodes above; with `in_place` those that it is found under."""
        if node.parent is None or (in_place and node.gone):
            return []
        return [node.parent, *self._parents(node.parent, in_place=in_place)]

    def teardown(self) -> None:
        for node, count in self.pins.items():
            for _ in range(count):
                self.nodes.unpin(node)
        for node, count in self.lookups.items():
            self.nodes.forget(node.id, count)
        assert len(self.nodes) == 1


NodesMachine.TestCase.settings = settings(deadline=None, max_examples=200, stateful_step_count=40)
TestAgainstTheKernel = NodesMachine.TestCase
