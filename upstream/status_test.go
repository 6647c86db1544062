package upstream

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// TestSnapshot compares every field in all states of one backend.
func TestSnapshot(t *testing.T) {
	var (
		p       = NewPool(addresses("a b"), time.Minute, start)
		a, b    = p.Backend("a"), p.Backend("b")
		at      = func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
		refused = errors.New("refused")
		timeout = errors.New("timed out")
		want    = func(what string, now time.Time, position int, tcp NetworkStatus) {
			t.Helper()
			list := p.Snapshot(now)
			wantList := []Status{
				{Backend: a, Position: position, Configured: 0, Networks: [networks]NetworkStatus{TCP: tcp, UDP: {State: Up}}},
				{Backend: b, Position: 1 - position, Configured: 1, Networks: [networks]NetworkStatus{TCP: {State: Up}, UDP: {State: Up}}},
			}
			if tcp.State == Draining {
				wantList[0].Networks[UDP].State = Draining // a drain holds for both networks
			}
			if position == 1 {
				wantList[0], wantList[1] = wantList[1], wantList[0]
			}
			if !reflect.DeepEqual(list, wantList) {
				t.Errorf("%s:\ngot  %+v\nwant %+v", what, list, wantList)
			}
		}
	)
	want("new", start, 0, NetworkStatus{State: Up})

	walk, late := p.Walk(TCP), p.Walk(TCP)
	attempt, _ := walk.Next(at(1))
	held, _ := late.Next(at(1))
	walk.Failed(attempt, at(2), refused)
	want("struck", at(2), 0, NetworkStatus{State: Struck, Strikes: 1, Failed: 1, LastFailure: Failure{At: at(2), Error: "refused"}})

	// A failure without a strike is still counted, and is the latest failure.
	late.FailedAt(held, at(3), timeout, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), held.Backend.Port))
	where := netip.MustParseAddrPort("192.0.2.1:80")
	want("struck still", at(3), 0, NetworkStatus{State: Struck, Strikes: 1, Failed: 2, LastFailure: Failure{At: at(3), Error: "timed out", Address: where}})

	attempt, _ = walk.Again(attempt, at(3))
	walk.Failed(attempt, at(4), refused)
	down := NetworkStatus{State: Cooling, DownSince: at(4), CoolingUntil: at(64), Failed: 3, Demotions: 1, LastFailure: Failure{At: at(4), Error: "refused"}}
	want("cooling", at(63), 1, down)

	down.State, down.CoolingUntil = Down, time.Time{}
	want("down", at(64), 1, down)

	p.SetDrained(a, true)
	down.State = Draining
	want("drained", at(64), 1, down)
	p.SetDrained(a, false)

	probe := p.Probe(a, TCP, Listens)
	attempt, _ = probe.Next(at(70))
	probe.Succeeded(attempt, at(70))
	want("recovered", at(70), 1, NetworkStatus{State: Up, Succeeded: 1, Failed: 3, Demotions: 1, LastFailure: Failure{At: at(4), Error: "refused"}})
}

// A snapshot does not change later.
func TestSnapshotIsACopy(t *testing.T) {
	p := NewPool(addresses("a b"), 0, start)
	before := p.Snapshot(start)
	walk := p.Walk(TCP)
	a, _ := walk.Next(start)
	walk.Failed(a, start, errRefused)
	a, _ = walk.Again(a, start)
	walk.Failed(a, start, errRefused)
	if before[0].Backend.Text != "a" || before[0].Networks[TCP] != (NetworkStatus{State: Up}) {
		t.Errorf("the old snapshot changed to %+v", before[0])
	}
}

// The caller may modify the order.
func TestOrderIsACopy(t *testing.T) {
	p := NewPool(addresses("a b"), 0, start)
	p.Order()[0] = "x"
	if got := p.Order()[0]; got != "a" {
		t.Errorf("first is %q, want a", got)
	}
}

func TestNetworkString(t *testing.T) {
	if TCP.String() != "tcp" || UDP.String() != "udp" {
		t.Errorf("got %v and %v, want tcp and udp", TCP, UDP)
	}
}

// The counts of removed backends are kept.
func TestDeparted(t *testing.T) {
	p := NewPool(addresses("a b"), 0, start)
	walk := p.Walk(TCP)
	a, _ := walk.Next(start)
	walk.Failed(a, start, errors.New("refused"))
	a, _ = walk.Again(a, start)
	walk.Failed(a, start, errors.New("refused"))
	want := func(tcp Departed) {
		t.Helper()
		if got := [...]Departed{TCP: p.Departed(TCP), UDP: p.Departed(UDP)}; got != [...]Departed{TCP: tcp, UDP: {}} {
			t.Errorf("got %+v, want %+v over TCP", got, tcp)
		}
	}
	want(Departed{})
	p.Update(addresses("b"), 0)
	want(Departed{Failed: 2, Demotions: 1})
	p.Update(addresses("a b"), 0)
	want(Departed{Failed: 2, Demotions: 1})
}
