package module_test

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module/api"
)

// fleetOptions returns the global options of a node of a fleet, whose storage is a
// directory.
func fleetOptions(dir, node string) string {
	return fmt.Sprintf("storage file_system %s\nrelay {\nshare test\ninstance %s\n}", dir, node)
}

// startNode starts a node of a fleet in another process.
func startNode(t *testing.T, dir, node, layer4 string) *caddyProcess {
	t.Helper()
	s := newServer(t)
	s.more = fleetOptions(dir, node)
	return s.startProcess(t, layer4, 0)
}

// records returns the files of the nodes' records.
func records(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "relay/fleet/test/nodes/*.json"))
	relaytest.Check(t, err)
	return files
}

// fleet returns what a node knows of its fleet.
func (s *server) fleet() (f api.Fleet) {
	s.t.Helper()
	s.must("GET", "fleet", &f)
	return f
}

// seesNodes waits until a node knows a number of other nodes.
func (s *server) seesNodes(n int) {
	s.t.Helper()
	relaytest.Eventually(s.t, fmt.Sprintf("%d other nodes", n), func() bool { return len(s.fleet().Nodes) == n })
}

// web returns the service web of a node.
func (s *server) web() (v api.Service) {
	s.t.Helper()
	s.must("GET", "services/web", &v)
	return v
}

// backend returns a backend of the service web of a node.
func (s *server) backend(address string) api.Backend {
	s.t.Helper()
	b, ok := s.web().Backend(address)
	if !ok {
		s.t.Fatalf("no backend %s", address)
	}
	return b
}

// operate makes a request of an operator.
func (s *server) operate(path, body string) {
	s.t.Helper()
	if status, problem, _ := s.send("POST", "services/web"+path, body, nil); status != http.StatusOK {
		s.t.Fatalf("%s: %d %s", path, status, problem)
	}
}

// What an operator does on one node is repeated by the other, and the journal names
// the node.
func TestFleetSharesOperations(t *testing.T) {
	one, _ := echoTCP(t, "one")
	two, _ := echoTCP(t, "two")
	dir := t.TempDir()
	layer4 := func() string {
		return fmt.Sprintf("TCP/%s {\nroute {\nrelay %s %s {\nname web\n}\n}\n}", freeAddr(t), one, two)
	}
	ann, bob := startNode(t, dir, "ann", layer4()), startNode(t, dir, "bob", layer4())
	ann.seesNodes(1)
	bob.seesNodes(1)
	at := "/backends/" + url.PathEscape(two)

	ann.operate(at+"/drain", "")
	relaytest.Eventually(t, "the drain on bob", func() bool { return bob.backend(two).State == api.StateDraining })
	bob.operate(at+"/resume", "")
	relaytest.Eventually(t, "the resume on ann", func() bool { return ann.backend(two).State == api.StateUp })
	ann.operate("/hold?for=1h", "")
	relaytest.Eventually(t, "the hold on bob", func() bool { return time.Until(bob.web().HeldTill) > 59*time.Minute })
	bob.operate("/release", "")
	relaytest.Eventually(t, "the release on ann", func() bool { return ann.web().HeldTill.IsZero() })
	ann.operate(at+"/drill", `{"fault":"refuse","for":"30m"}`)
	relaytest.Eventually(t, "the drill on bob", func() bool { return bob.backend(two).Drill == "refuse" })
	bob.operate(at+"/drill/stop", "")
	relaytest.Eventually(t, "the end of the drill on ann", func() bool { return ann.backend(two).Drill == "" })
	ann.operate("/reset", "")
	relaytest.Eventually(t, "the reset on bob", func() bool { return strings.Contains(bob.explanation(), "reset: configured order") })

	// Each was repeated once.
	node := ann.fleet().Node
	if !strings.HasPrefix(node, "ann-") {
		t.Errorf("node %q", node)
	}
	journal := bob.explanation()
	for _, want := range []string{"drain: " + two, "hold: new clients wait", "drill: faults", "reset: configured order"} {
		if strings.Count(journal, want) != 1 {
			t.Errorf("bob's journal has %d entries %q:\n%s", strings.Count(journal, want), want, journal)
		}
	}
	if got := strings.Count(journal, "on node "+node); got != 4 {
		t.Errorf("bob's journal names %s %d times, want 4:\n%s", node, got, journal)
	}
	if got := len(bob.awaitLines("changed by another node", 4)); got != 4 {
		t.Errorf("%d lines, want 4", got)
	}
	if got := len(ann.awaitLines("changed by another node", 3)); got != 3 {
		t.Errorf("%d lines of ann, want 3", got)
	}

	// A node that ends removes its record.
	bob.terminate()
	bob.status()
	ann.seesNodes(0)
	if got := records(t, dir); len(got) != 1 {
		t.Errorf("records: %v", got)
	}
}

// explanation returns the journal of the service web, one sentence a line.
func (s *server) explanation() string {
	s.t.Helper()
	var b strings.Builder
	for _, entry := range s.explain("web").Journal {
		b.WriteString(entry.Sentence + "\n")
	}
	return b.String()
}

// A reload keeps the node in its fleet. A config without share removes its record, and
// its API has no fleet.
func TestFleetOverReloads(t *testing.T) {
	dir := t.TempDir()
	layer4 := fmt.Sprintf("TCP/%s {\nroute {\nrelay 127.0.0.1:1 {\nname web\n}\n}\n}", freeAddr(t))
	s := startWith(t, fleetOptions(dir, "ann"), layer4)
	relaytest.Eventually(t, "the record", func() bool { return len(records(t, dir)) == 1 })
	node := s.fleet().Node
	for range 3 {
		relaytest.Check(t, s.reload(layer4))
	}
	if got := s.fleet().Node; got != node || len(s.lines("fleet joined")) != 1 || len(s.lines("fleet left")) != 0 {
		t.Errorf("after reloads: node %q, before %q; joined %d times", got, node, len(s.lines("fleet joined")))
	}
	// Another node has demoted the backend.
	far := filepath.Join(filepath.Dir(records(t, dir)[0]), "far.json")
	relaytest.Check(t, os.WriteFile(far, []byte(`{"version":1,"node":"far","sequence":1,"down":[{"service":"web","backend":"127.0.0.1:1","network":"tcp","demotions":1}]}`), 0o600))
	relaytest.Check(t, os.WriteFile(filepath.Join(dir, "relay/fleet/test/changed"), []byte("far 1"), 0o600))
	suspected := func() bool { return s.backend("127.0.0.1:1").Networks["tcp"].Suspect }
	relaytest.Eventually(t, "the suspicion", suspected)
	s.more = "storage file_system " + dir
	relaytest.Check(t, s.reload(layer4))
	if suspected() {
		t.Error("a suspect without share")
	}
	relaytest.Check(t, os.Remove(far))
	if got := records(t, dir); len(got) != 0 {
		t.Errorf("records without share: %v", got)
	}
	answer, err := http.Get("http://" + s.admin + "/relay/fleet")
	relaytest.Check(t, err)
	answer.Body.Close()
	if answer.StatusCode != http.StatusNotFound {
		t.Errorf("status %d", answer.StatusCode)
	}
	s.more = fleetOptions(dir, "ann")
	relaytest.Check(t, s.reload(layer4))
	relaytest.Eventually(t, "the record", func() bool { return len(records(t, dir)) == 1 })
	if s.fleet().Node == node {
		t.Error("a node has the name of an earlier one, whose records other nodes have read")
	}
}

// A storage that cannot be used is logged once, and the node works.
func TestFleetWithoutStorage(t *testing.T) {
	dir := t.TempDir()
	one, _ := echoTCP(t, "one")
	addr := freeAddr(t)
	s := startWith(t, fleetOptions(dir, "ann"), fmt.Sprintf("TCP/%s {\nroute {\nrelay %s {\nname web\n}\n}\n}", addr, one))
	relaytest.Eventually(t, "the record", func() bool { return len(records(t, dir)) == 1 })
	relaytest.Check(t, os.Rename(filepath.Join(dir, "relay"), filepath.Join(dir, "away")))
	relaytest.Check(t, os.WriteFile(filepath.Join(dir, "relay"), nil, 0o600))
	relaytest.Eventually(t, "the warning", func() bool { return len(s.lines("fleet storage unavailable, this node continues alone")) == 1 })
	if f := s.fleet(); f.Storage.Error == "" || f.Storage.Failed == 0 {
		t.Errorf("fleet %+v", f)
	}
	if got := ask(t, dial(t, "tcp", addr), "hi"); got != "one hi" {
		t.Errorf("answer %q", got)
	}
	s.operate("/hold?for=1h", "")
	s.operate("/release", "")
	relaytest.Check(t, os.Remove(filepath.Join(dir, "relay")))
	relaytest.Eventually(t, "the end", func() bool { return len(s.lines("fleet storage available again")) == 1 })
	if got := len(s.lines("fleet storage unavailable, this node continues alone")); got != 1 {
		t.Errorf("%d warnings", got)
	}
	relaytest.Eventually(t, "the record", func() bool { return len(records(t, dir)) == 1 })
}

// A fleet of five has a silent primary. The first client waits for both of its
// attempts. Later clients, of all nodes, are served within a second, although each node
// demotes the primary by its own attempts only.
func TestFleetWithASilentPrimary(t *testing.T) {
	const connectTimeout, nodes = 5 * time.Second, 5
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	relaytest.Check(t, err)
	defer listener.Close()
	silent := listener.Addr().String()
	relaytest.FillBacklog(t, listener.(*net.TCPListener))
	live, _ := echoTCP(t, "live")
	dir := t.TempDir()
	var fleet []*caddyProcess
	var addrs []string
	for i := range nodes {
		addr := freeAddr(t)
		addrs = append(addrs, addr)
		fleet = append(fleet, startNode(t, dir, fmt.Sprintf("node%d", i), fmt.Sprintf("TCP/%s {\nroute {\nrelay %s %s {\nname web\nconnect_timeout %s\n}\n}\n}", addr, silent, live, connectTimeout)))
	}
	for _, n := range fleet {
		n.seesNodes(nodes - 1)
	}
	// serve returns how long a client waits for its first answer.
	serve := func(addr string) time.Duration {
		began := time.Now()
		conn := dial(t, "tcp", addr)
		defer conn.Close()
		relaytest.Check(t, conn.SetDeadline(began.Add(relaytest.Limit)))
		if got := ask(t, conn, "hi"); got != "live hi" {
			t.Errorf("answer %q", got)
		}
		return time.Since(began)
	}
	first := serve(addrs[0])
	if first < 2*connectTimeout {
		t.Errorf("the first client waited %s, want at least %s: the primary is not silent", first, 2*connectTimeout)
	}
	for _, n := range fleet[1:] {
		relaytest.Eventually(t, "the suspicion", func() bool { return n.backend(silent).Networks["tcp"].Suspect })
	}
	var slowest time.Duration
	for _, addr := range addrs {
		for range 3 {
			slowest = max(slowest, serve(addr))
		}
	}
	t.Logf("the first client was served after %s, the slowest of the others after %s", first.Round(time.Millisecond), slowest.Round(time.Millisecond))
	if slowest > connectTimeout/2 { // the figure is 1 s; a busy machine gets more
		t.Errorf("the slowest later client was served after %s", slowest)
	}
	for _, n := range fleet {
		relaytest.Eventually(t, "a demotion by the node's own attempts", func() bool { return n.backend(silent).State == api.StateDown })
		if got := len(n.awaitLines("backend failed, second strike", 1)); got != 1 {
			t.Errorf("%d demotions on a node", got)
		}
	}
}
