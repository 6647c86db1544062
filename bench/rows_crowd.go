//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// crowdRows are about what clients cost each other, and about a distant backend.
func crowdRows() []row {
	echoing := roundTrips()
	echoing[len(echoing)-1] = metric{"ms p50 / p90 / p99 / p99.9", []string{"p50", "p90", "p99", "p99.9"}, true}
	rows := []row{
		{name: "TCP bulk, backend to client, 16 streams together with 40 clients that stopped reading", backends: tcpSource,
			job: job{Kind: "bulk down", Count: 16}, metrics: bulk(),
			beside: &beside{backends: tcpSource, job: job{Kind: "stalled", Count: 40}}},
		{name: "TCP bulk, client to backend, 16 streams together with 40 clients that stopped reading", backends: tcpSink,
			job: job{Kind: "bulk up", Count: 16}, metrics: bulk(),
			beside: &beside{backends: tcpSource, job: job{Kind: "stalled", Count: 40}}},
		{name: "TCP ping-pong, 1 connection together with 8 bulk streams, on one core", backends: ownEcho, oneCore: true,
			job:     job{Kind: "ping-pong", Count: 1, Size: 64},
			metrics: append(echoing, single("beside", "GiB/s of the streams", true)),
			beside:  &beside{backends: tcpSink, job: job{Kind: "bulk up", Count: 8}}},
		{name: "TCP connect, echo, close, to a backend 20 ms away", backends: tcpEcho, distant: true,
			job:     job{Kind: "connections", Count: 2000, AtATime: 128, Size: 64},
			metrics: []metric{cpuPer("µs per connection"), single("rate", "connections/s", true), latency()}},
	}
	for i := range rows {
		rows[i].group, rows[i].network = "Crowds and distance", "tcp"
	}
	return rows
}

// ownEcho is an echo service in a process of its own, which the bulk backend's work
// does not delay.
const ownEcho = "an echo service of its own"

// stalledClients connects clients that do not read what they are sent.
func stalledClients(j job) (values, error) {
	conns := make([]net.Conn, j.Count)
	if err := spread(8, j.Count, func(i int) (err error) {
		conns[i], err = net.Dial("tcp", j.Addr)
		return err
	}); err != nil {
		return nil, err
	}
	time.Sleep(5*j.Window + time.Minute) // it is killed before that
	runtime.KeepAlive(conns)
	return nil, errors.New("not stopped in time")
}

// In rows on one core, the target runs on the first CPU, and load and backends on the
// second one.
const relayCPU, otherCPU = 0, 1

// share moves the backend to the CPU that is not the target's and starts an echo
// service there, as the backend of the first service. release undoes that.
func (b *bench) share(s *setup) (release func(), err error) {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return func() {}, err
	}
	var echo *child
	release = func() {
		if echo != nil {
			echo.stop()
		}
		_ = unix.SchedSetaffinity(0, &all)
		_ = setAffinity(b.backend.cmd.Process.Pid, &all)
	}
	if err := onCPU(otherCPU); err != nil {
		return release, err
	}
	if err := setAffinity(b.backend.cmd.Process.Pid, cpuSet(otherCPU)); err != nil {
		return release, err
	}
	var addr string
	if echo, addr, err = startEcho(b.dir, loopback+":0"); err != nil {
		return release, err
	}
	s.services[0].backends = []string{addr}
	return release, nil
}

func cpuSet(cpu int) *unix.CPUSet {
	var set unix.CPUSet
	set.Set(cpu)
	return &set
}

// onCPU moves this thread, and processes that it starts, to a CPU.
func onCPU(cpu int) error {
	if err := unix.SchedSetaffinity(0, cpuSet(cpu)); err != nil {
		return fmt.Errorf("moving to CPU %d: %w", cpu, err)
	}
	return nil
}

// setAffinity moves all threads of a process.
func setAffinity(pid int, set *unix.CPUSet) error {
	threads, err := os.ReadDir(filepath.Join(procFile(pid, "task")))
	if err != nil {
		return err
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err == nil {
			err = unix.SchedSetaffinity(id, set)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
