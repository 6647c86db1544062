//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// row is one kind of work, on which all targets are measured.
type row struct {
	name      string
	group     string // the table that it is part of
	network   string // tcp, udp
	backends  string // a service of backend.go, or a case of failover.go
	responses bool   // a UDP session ends after one answer
	relay     object // more options of the relay
	relayOnly bool   // peers are not measured
	job       job
	metrics   []metric
}

// job is the input of a load process.
type job struct {
	Kind    string
	Addr    string // of the relay, or of the backend itself
	Control string // address of the backend's serveControl
	PIDs    []int  // of the relay; none if the load connects to the backend itself
	Count   int    // of streams, connections, clients or sessions
	Size    int    // of a message
	Rate    int    // datagrams a second
	Window  time.Duration

	Backends []string      // those that the load kills
	Kills    int           // how often it kills one
	Gap      time.Duration // from the end of a killed backend to its next start
}

func allRows(short bool) []row {
	rows := slices.Concat(tcpRows(), udpRows(), failoverRows(), killedRows(), loadRows())
	if short {
		for i := range rows {
			rows[i].job.Count = min(rows[i].job.Count, 300)
			rows[i].job.Rate = min(rows[i].job.Rate, 20_000)
			rows[i].job.Kills = min(rows[i].job.Kills, 2)
			rows[i].job.Gap = min(rows[i].job.Gap, 200*time.Millisecond)
		}
	}
	return rows
}

// loads are the functions of a load process, by the kind of job.
var loads = map[string]func(job) (values, error){
	"bulk up":        bulkUp,
	"bulk down":      bulkDown,
	"ping-pong":      pingPong,
	"connections":    connections,
	"idle":           idleConnections,
	"UDP ping-pong":  pingPongUDP,
	"UDP up":         oneWayUp,
	"UDP down":       oneWayDown,
	"UDP sessions":   sessionsUDP,
	"UDP concurrent": concurrentUDP,
	"first byte":     firstByte,
	"kills":          requestsUnderKills,
	"gap":            connectThroughGap,
}

// runLoad runs a job in a new process.
func runLoad(dir string, j job) (values, error) {
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	c, err := startChildWith(dir, bytes.NewReader(text), os.Args[0], "load")
	if err != nil {
		return nil, err
	}
	defer c.stop()
	late := time.AfterFunc(5*j.Window+time.Minute, c.stop)
	defer late.Stop()
	var v values
	if err := json.NewDecoder(c.out).Decode(&v); err != nil {
		return nil, fmt.Errorf("load: %s", strings.TrimSpace(c.errorOutput()))
	}
	return v, nil
}

// load runs the load process that runLoad starts.
func load(in io.Reader, out io.Writer) error {
	runtime.GOMAXPROCS(1) // leaves the other cores to the relay
	var j job
	if err := json.NewDecoder(in).Decode(&j); err != nil {
		return err
	}
	do, ok := loads[j.Kind]
	if !ok {
		return fmt.Errorf("unknown load %q", j.Kind)
	}
	v, err := do(j)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(v)
}

// span measures units of work, the relay's CPU time and wall time from begin to
// end.
type span struct {
	relay meter
	units *atomic.Int64
	n     int64
	cpu   time.Duration
	at    time.Time
}

func begin(j job, units *atomic.Int64) (s span, err error) {
	s = span{relay: j.PIDs, units: units, n: units.Load(), at: time.Now()}
	s.cpu, err = s.relay.cpu()
	return s, err
}

// end returns the rate in units per second divided by scale, and the CPU seconds
// per scale units multiplied by perCPU.
func (s span) end(scale, perCPU float64) (values, error) {
	cpu, err := s.relay.cpu()
	if err != nil {
		return nil, err
	}
	n, took := float64(s.units.Load()-s.n)/scale, time.Since(s.at)
	if n <= 0 {
		return nil, fmt.Errorf("no unit of work was done in %v", took)
	}
	v := values{"rate": n / took.Seconds()}
	if len(s.relay) > 0 {
		v["cpu"] = (cpu - s.cpu).Seconds() * perCPU / n
	}
	return v, nil
}

// window measures workers that run continuously, after a warm-up.
func window(j job, units *atomic.Int64, failed <-chan error, scale, perCPU float64) (values, error) {
	select {
	case err := <-failed:
		return nil, err
	case <-time.After(j.Window/4 + 50*time.Millisecond):
	}
	s, err := begin(j, units)
	if err != nil {
		return nil, err
	}
	select {
	case err := <-failed:
		return nil, err
	case <-time.After(j.Window):
	}
	return s.end(scale, perCPU)
}
