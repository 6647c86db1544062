package fleet

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestDecodeReturnsWhatWasEncoded(t *testing.T) {
	n := newNode("one")
	n.downAt[target("a")] = 3
	n.observe()
	n.Operate(Operation{Kind: Drill, Service: "web", Backend: "a", On: true, Fault: "silent", Force: true, Left: 500, By: "ann"}, start)
	r := n.Record(start)
	got, err := Decode(r.encode())
	if err != nil {
		t.Fatal(err)
	}
	if string(got.encode()) != string(r.encode()) {
		t.Errorf("got %s\nwant %s", got.encode(), r.encode())
	}
	if got.Down[0] != (Claim{target("a"), 3}) || got.Operations[0].Fault != "silent" {
		t.Errorf("got %+v", got)
	}
}

func TestForeignRecords(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"another version": {`{"version":2,"node":5}`, "the record has version 2, and this relay reads version 1"},
		"no JSON":         {"hello", "decode record: invalid character"},
		"a wrong type":    {`{"version":1,"node":"n","down":5}`, "decode record: json"},
		"no node":         {`{"version":1}`, "bad name of the node"},
		"a control code":  {`{"version":1,"node":"a\u001b[1m"}`, "bad name of the node"},
		"too long":        {`{"version":1,"node":"` + strings.Repeat("x", maxRecord) + `"}`, "at most 1048576 are read"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Decode([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	_, err := Decode([]byte(`{"version":2}`))
	if v := VersionError(0); !errors.As(err, &v) || v != 2 {
		t.Errorf("error %v", err)
	}
}

// What this version does not know is left out, and the rest counts.
func TestDecodeLeavesOutUnknownParts(t *testing.T) {
	r, err := Decode([]byte(`{"version":1,"node":"n","sequence":1,"new":true,
		"down":[{"service":"web","backend":"a","network":"sctp","demotions":1},{"service":"web","backend":"a","network":"tcp","demotions":1}],
		"operations":[{"kind":"dance","service":"web","node":"n","clock":1},{"kind":"drain","service":"web","node":"n","clock":1},
			{"kind":"reset","service":"web","node":"n","clock":2,"by":"a\u0007b"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Down) != 1 || r.Down[0].Network != "tcp" || len(r.Operations) != 1 || r.Operations[0].By != "ab" {
		t.Errorf("got %+v", r)
	}
	if r.beat() != minBeat {
		t.Errorf("beat %s, want %s", r.beat(), minBeat)
	}
}

// No input makes a node panic, and none makes it publish a record that others could
// not read.
func FuzzMerge(f *testing.F) {
	n := newNode("one")
	n.downAt[target("a")] = 1
	n.observe()
	n.Operate(Operation{Kind: Hold, Service: "web", On: true, Left: 1000}, start)
	n.Operate(Operation{Kind: Drain, Service: "web", Backend: "a", On: true}, start)
	f.Add(n.Record(start).encode())
	f.Add([]byte(`{"version":1,"node":"x","sequence":18446744073709551615,"beat_ms":-9223372036854775808,"operations":[{"kind":"hold","service":"web","node":"x","clock":18446744073709551615,"on":true,"left_ms":9223372036854775807}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Decode(text)
		if err != nil {
			return
		}
		s := newNode("two")
		s.Merge(r, start)
		s.Scanned([]string{r.Node}, start)
		s.Operate(Operation{Kind: Reset, Service: "web"}, start)
		s.Scanned([]string{r.Node}, start.Add(time.Hour))
		if own, err := Decode(s.Record(start).encode()); err != nil {
			t.Errorf("unreadable: %v", err)
		} else if len(own.Operations) != len(s.latest) {
			t.Errorf("%d operations are readable of %d", len(own.Operations), len(s.latest))
		}
	})
}

// Times of a foreign record are within bounds, so that no sum of them overflows.
func TestTimesAreBounded(t *testing.T) {
	for given, want := range map[int64]int64{-5: 0, 1000: 1000, 1 << 62: 86_400_000} {
		text := fmt.Sprintf(`{"version":1,"node":"one","sequence":1,"operations":[{"kind":"drain","service":"web","backend":"a","node":"one","left_ms":%d,"cut_after_ms":%d}]}`, given, given)
		r, err := Decode([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if o := r.Operations[0]; o.Left != want || o.CutAfter != want {
			t.Errorf("%d: left %d, cut after %d, want %d", given, o.Left, o.CutAfter, want)
		}
	}
}
