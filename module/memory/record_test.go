package memory

import (
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/handler"
	"github.com/async-relay/caddy-relay/resolver"
	"github.com/async-relay/caddy-relay/upstream"
)

var savedAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// full returns a record in which every field is set.
func full() Record {
	down := upstream.SavedHealth{State: upstream.Down, ByCheck: true, DownSince: savedAt, CoolingUntil: savedAt.Add(time.Minute)}
	return Record{
		Format: format, Version: version, SavedAt: savedAt,
		Writer: Writer{Host: "h", PID: 7, Started: savedAt.Add(-time.Hour), Relay: "v1"},
		Services: map[string]Service{"name s": {
			Queue: upstream.Saved{
				Backends: []upstream.SavedBackend{{Backend: "a.test:1", Drained: true}, {Backend: "b:1", Demoted: true, TCP: down, UDP: upstream.SavedHealth{State: upstream.Struck}}},
				AllDown:  []string{"tcp"},
			},
			HeldUntil: savedAt.Add(time.Second),
			Targets:   map[string]Targets{"_x._tcp.test": {List: []Target{{"a.test.", 1}}, ResolvedAt: savedAt, ExpiresAt: savedAt.Add(time.Hour)}},
		}},
		Names: map[string][]resolver.Saved{"system": {{Host: "a.test.", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, ResolvedAt: savedAt, ExpiresAt: savedAt.Add(time.Hour)}}},
		Counts: &Counts{
			Services: map[string]handler.SavedCounts{"name s": {Hedges: 1}},
			Series:   []Series{{"bytes_total", []string{"s", "tcp"}, []uint64{1}}},
			Lookups:  Lookups{1, 2, 3},
		},
	}
}

func TestEncodeAndDecode(t *testing.T) {
	want := full()
	got, err := Decode(want.Encode())
	if err != nil || !reflect.DeepEqual(*got, want) {
		t.Errorf("decoded %+v, %v\nwant %+v", got, err, want)
	}
	for i, v := 0, reflect.ValueOf(want); i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("the test does not set %s", v.Type().Field(i).Name)
		}
	}
}

// A record that is cut anywhere is an error.
func TestDecodeTruncated(t *testing.T) {
	text := full().Encode()
	for i := range text {
		if _, err := Decode(text[:i]); err == nil {
			t.Fatalf("%s was decoded", text[:i])
		}
	}
}

func TestDecodeRejects(t *testing.T) {
	changed := func(old, new string) string {
		text := string(full().Encode())
		if !strings.Contains(text, old) {
			t.Fatalf("%s does not contain %s", text, old)
		}
		return strings.Replace(text, old, new, 1)
	}
	for name, test := range map[string]struct{ text, want string }{
		"empty":                {"", "damaged"},
		"other JSON":           {`{"apps":{}}`, ErrForeign.Error()},
		"an array":             {`[1]`, ErrForeign.Error()},
		"a number as format":   {`{"format":1}`, ErrForeign.Error()},
		"newer":                {changed(`"version":1`, `"version":2,"services":7`), "newer version of the relay (format 2)"},
		"no version":           {changed(`"version":1`, `"version":0`), "damaged: it has no version"},
		"no time":              {changed(`"saved_at":"2026-01-02T03:04:05Z",`, ``), "no time"},
		"bad time":             {changed(`"saved_at":"2026-`, `"saved_at":"x`), "damaged"},
		"unknown state":        {changed(`"down"`, `"on fire"`), `queue of service "name s"`},
		"a backend twice":      {changed(`"backend":"a.test:1"`, `"backend":"b:1"`), `queue of service "name s"`},
		"a backend unnamed":    {changed(`"backend":"a.test:1"`, `"backend":""`), `queue of service "name s"`},
		"target without a dot": {changed(`"host":"a.test.","port"`, `"host":"a.test","port"`), "target"},
		"target without port":  {changed(`"port":1`, `"port":0`), "target"},
		"a bad address":        {changed(`192.0.2.1`, `192.0.2.`), "damaged"},
		"no name":              {changed(`"host":"a.test.","addrs"`, `"host":"","addrs"`), "without a name"},
		"a negative count":     {changed(`"ok":1`, `"ok":-1`), "damaged"},
	} {
		if r, err := Decode([]byte(test.text)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %+v, error %v, want %q", name, r, err, test.want)
		}
	}
	if _, err := Decode([]byte(changed(`"version":1`, `"version":2`))); !errors.Is(err, ErrNewer) {
		t.Error(err)
	}
	if _, err := Decode(make([]byte, maxSize+1)); err == nil {
		t.Error("a huge record was decoded")
	}
	if _, err := Decode([]byte(changed(`"version":1`, `"version":1,"later":{"field":[1]}`))); err != nil {
		t.Errorf("a field of a later program: %v", err)
	}
}

func TestAge(t *testing.T) {
	r := full()
	for now, want := range map[time.Time]time.Duration{
		savedAt: 0, savedAt.Add(time.Minute): time.Minute, savedAt.Add(-time.Hour): time.Hour,
		time.Unix(1<<40, 0): 1<<63 - 1,
	} {
		if got := r.Age(now); got != want {
			t.Errorf("age at %v is %v, want %v", now, got, want)
		}
	}
}

// Whatever is decoded can be used: it fits into a pool, and is the same when it is
// written again.
func FuzzDecode(f *testing.F) {
	f.Add(full().Encode())
	f.Add([]byte(`{"format":"caddy-relay memory","version":1,"saved_at":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"name s":{"drained":["a:1"]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Decode(text)
		if err != nil {
			return
		}
		for _, s := range r.Services {
			p := upstream.NewPool([]upstream.Address{{Text: "a.test:1"}, {Text: "b:1"}}, time.Minute, savedAt)
			p.Restore(s.Queue, savedAt)
			if len(p.Undrained()) == 0 {
				t.Errorf("all are drained after %+v", s.Queue)
			}
		}
		again, err := Decode(r.Encode())
		if err != nil {
			t.Fatalf("%s was decoded, its copy was not: %v", text, err)
		}
		one, _ := json.Marshal(r)
		other, _ := json.Marshal(again)
		if string(one) != string(other) {
			t.Errorf("%s became %s", one, other)
		}
	})
}
