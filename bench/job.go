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
	"time"
)

// addr returns the address for client i. The clients are spread over all services.
func (j job) addr(i int) string {
	if len(j.Addrs) == 0 {
		return j.Addr
	}
	return j.Addrs[i%len(j.Addrs)]
}

func allRows(o options) []row {
	rows := slices.Concat(tcpRows(), crowdRows(), udpRows(), growthRows(), failoverRows(), killedRows(), loadRows())
	if o.quick {
		rows = slices.DeleteFunc(rows, func(r row) bool { return r.slow })
	}
	if o.short {
		for i := range rows {
			rows[i].job.Count = min(rows[i].job.Count, 300)
			rows[i].job.Fill = min(rows[i].job.Fill, 300)
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
	"stalled":        stalledClients,
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
	c, err := startLoad(dir, j)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	return c.result(j)
}

func startLoad(dir string, j job) (*child, error) {
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	return startChildWith(dir, bytes.NewReader(text), nil, os.Args[0], "load")
}

// result waits for the result of a load process.
func (c *child) result(j job) (v values, err error) {
	late := time.AfterFunc(5*j.Window+time.Minute, c.stop)
	defer late.Stop()
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
