package page

import (
	"testing"

	"github.com/async-relay/caddy-relay/module/api"
)

func TestSentence(t *testing.T) {
	refused := "dial tcp 10.0.0.2:5432: connect: connection refused"
	for _, tt := range []struct {
		entry api.JournalEntry
		want  string
	}{
		{api.JournalEntry{Kind: "strike", Backend: "db1:5432", Cause: refused, By: "10.0.0.7:51000"}, "db1:5432 failed and is retried at once: first strike, connection refused, seen by 10.0.0.7"},
		{api.JournalEntry{Kind: "demotion", Backend: "db1:5432", Cause: refused, By: "10.0.0.7:51000", Order: []string{"db2", "db1"}}, "db1:5432 moved to the end: second strike, connection refused, seen by 10.0.0.7"},
		{api.JournalEntry{Kind: "demotion", Backend: "db1:5432", Cause: "dial tcp 10.0.0.2:5432: i/o timeout", By: "health check", ByCheck: true}, "db1:5432 is down, order unchanged: second strike, timed out, seen by the health check, until a health check passes"},
		{api.JournalEntry{Kind: "recovery", Backend: "db1:5432", Cause: "down for 7s", By: "[2001:db8::7]:51000"}, "db1:5432 works again: down for 7s, seen by 2001:db8::7"},
		{api.JournalEntry{Kind: "drain", Backend: "db1:5432", By: "alice"}, "db1:5432 drained, it gets no new clients: by alice"},
		{api.JournalEntry{Kind: "hold", Cause: "for 30s", By: "127.0.0.1:40000"}, "new clients are held: for 30s, by 127.0.0.1"},
		{api.JournalEntry{Kind: "reload"}, "settings changed by a reload"},
		{api.JournalEntry{Kind: "flush", Backend: "db:1", By: "alice"}, "db:1 is looked up at its next use: DNS cache flushed, by alice"},
		{api.JournalEntry{Kind: "news", Backend: "db:1"}, "news db:1"},
	} {
		if got := sentence(tt.entry); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

func TestInWords(t *testing.T) {
	for text, want := range map[string]string{
		"dial tcp [::1]:80: connect: connection refused":                                                       "connection refused",
		"read udp 127.0.0.1:4->127.0.0.1:5: recvmsg: connection refused":                                       "connection refused",
		"dial tcp 10.0.0.1:80: i/o timeout\ndial tcp 10.0.0.2:80: connect: no route to host":                   "timed out; no route to host",
		"dial tcp 10.0.0.1:80: connect: connection refused\ndial tcp 10.0.0.2:80: connect: connection refused": "connection refused",
		"lookup db: no such host": "lookup db: no such host",
		"":                        "",
	} {
		if got := inWords(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
