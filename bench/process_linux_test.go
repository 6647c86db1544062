package main

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
)

// TestMain runs the processes that the bench starts from its own program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "backend", "load", "echo", "wire":
			main()
			return
		}
	}
	os.Exit(m.Run())
}

// Each load runs against the backend itself, and returns what its rows report.
func TestLoads(t *testing.T) {
	runtime.LockOSThread() // the kernel kills a child when the thread that started it ends
	defer runtime.UnlockOSThread()
	dir := t.TempDir()
	backend, err := startChild(dir, os.Args[0], "backend")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.stop()
	var ports backendPorts
	if err := json.NewDecoder(backend.out).Decode(&ports); err != nil {
		t.Fatal(err, backend.errorOutput())
	}
	for _, c := range []struct {
		service string
		job     job
	}{
		{tcpSink, job{Kind: "bulk up", Count: 2}},
		{tcpSource, job{Kind: "bulk down", Count: 2}},
		{tcpEcho, job{Kind: "ping-pong", Count: 70, Size: 64}}, // more than are active at a time
		{tcpEcho, job{Kind: "connections", Count: 20, AtATime: 4, Size: 64}},
		{udpEcho, job{Kind: "UDP ping-pong", Count: 70, Size: 64}},
		{udpSink, job{Kind: "UDP up", Count: 2, Size: 64, Rate: 5000}},
		{udpSource, job{Kind: "UDP down", Count: 2, Size: 64, Rate: 5000}},
		{udpEcho, job{Kind: "UDP sessions", Count: 20, Size: 64}},
		{udpEcho, job{Kind: "UDP sessions", Count: 20, Fill: 10, Size: 64}},
	} {
		j := c.job
		j.Addr, j.Control, j.Backend = ports.of(c.service, 0)[0], ports.Control, backend.cmd.Process.Pid
		j.PIDs = []int{os.Getpid()} // as if this process was the relay
		missing := func(v values) bool {
			return slices.ContainsFunc([]string{"rate", "machine", "p50", "p99", "p99.9"}, func(key string) bool { return v[key] <= 0 })
		}
		var v values
		for j.Window = 100 * time.Millisecond; ; j.Window *= 2 { // a busy machine may do nothing in a short window
			if v, err = runLoad(dir, j); err != nil || !missing(v) || j.Window > 5*time.Second {
				break
			}
		}
		if err != nil {
			t.Errorf("%s: %v", j.Kind, err)
			continue
		}
		if missing(v) {
			t.Errorf("%s: a value is missing: %v", j.Kind, v)
		}
		if _, ok := v["cpu"]; !ok {
			t.Errorf("%s: no CPU of the relay", j.Kind)
		}
		if v["p50"] > v["p99"] || v["p99"] > v["p99.9"] {
			t.Errorf("%s: the quantiles are not in order: %v", j.Kind, v)
		}
	}
}

func TestSlowPath(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	path, err := newSlowPath(t.TempDir())
	if err != nil {
		t.Skip("no network with a slow path: ", err)
	}
	defer path.close()
	exchange := func() (connected, answered time.Duration, err error) {
		leave, err := path.enter()
		if err != nil {
			return 0, 0, err
		}
		defer leave()
		began := time.Now()
		conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(path.backend)))
		if err != nil {
			return 0, 0, err
		}
		defer conn.Close()
		connected = time.Since(began)
		err = trip(conn, make([]byte, 64))
		return connected, time.Since(began) - connected, err
	}
	connected, answered, err := exchange()
	if err != nil {
		t.Fatal(err)
	}
	if connected < 2*pathDelay || answered < 2*pathDelay {
		t.Errorf("connected after %v and answered after %v, want at least %v for both", connected, answered, 2*pathDelay)
	}
	if conn, err := net.DialTimeout("tcp", path.backend, 50*time.Millisecond); err == nil {
		conn.Close()
		t.Error("this process is still on the far network")
	}
}
