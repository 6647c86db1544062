package page

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/async-relay/caddy-relay/module/api"
)

// sentence describes a journal entry for people, without its time. What is known of
// the cause and of the client or person behind it follows the event, as in
// "10.0.0.2:5432 moved to the end: second strike, connection refused, seen by
// 10.0.0.7".
func sentence(e api.JournalEntry) string {
	what, details := event(e)
	if cause := inWords(e.Cause); cause != "" {
		details = append(details, cause)
	}
	details = append(details, source(e))
	if e.ByCheck {
		details = append(details, "until a health check passes")
	}
	details = slices.DeleteFunc(details, func(s string) bool { return s == "" })
	if len(details) == 0 {
		return what
	}
	return what + ": " + strings.Join(details, ", ")
}

// event returns what happened, and the details that its kind implies.
func event(e api.JournalEntry) (what string, details []string) {
	switch e.Kind {
	case "strike":
		return e.Backend + " failed and is retried at once", []string{"first strike"}
	case "demotion":
		if e.Order == nil {
			return e.Backend + " is down, order unchanged", []string{"second strike"}
		}
		return e.Backend + " moved to the end", []string{"second strike"}
	case "recovery":
		return e.Backend + " works again", nil
	case "local":
		return "this machine cannot reach " + e.Backend + ", no strike", nil
	case "reset":
		return "queue reset to the configured order, no strikes", nil
	case "drain":
		return e.Backend + " drained, it gets no new clients", nil
	case "resume":
		return e.Backend + " resumed, it gets new clients again", nil
	case "failback":
		return e.Backend + " is healthy and back in its configured place", nil
	case "dns":
		return "addresses of " + e.Backend + " changed", nil
	case "suspect":
		return e.Backend + " is suspected, another node has demoted it", nil
	case "reload":
		return "settings changed by a reload", nil
	case "restore":
		return "state of an earlier process restored", nil
	case "cut":
		return "clients left " + e.Backend, nil
	case "drill":
		return "drill of " + e.Backend + " began", nil
	case "drill_ended":
		return "drill of " + e.Backend + " ended", nil
	case "hold":
		return "new clients are held", nil
	case "release":
		return "hold ended, new clients are served again", nil
	case "flush":
		return e.Backend + " is looked up at its next use", []string{"DNS cache flushed"}
	default:
		return strings.TrimSpace(e.Kind + " " + e.Backend), nil
	}
}

// source returns who or what caused an entry.
func source(e api.JournalEntry) string {
	by := e.By
	if at, err := netip.ParseAddrPort(by); err == nil {
		by = at.Addr().String()
	}
	switch {
	case by == "":
		return ""
	case by == "health check" || strings.HasPrefix(by, "held clients"):
		return "seen by the " + by
	case slices.Contains([]string{"strike", "demotion", "recovery", "local", "suspect"}, e.Kind):
		return "seen by " + by
	default:
		return "by " + by
	}
}

// operation is the beginning of an error of package net: the call, the network and
// the address, which the page shows elsewhere.
var operation = regexp.MustCompile(`^(?:dial|read|write) (?:tcp|udp)[46]? \S+: (?:(?:connect|read|write|recvmsg|sendmsg): )?`)

// inWords shortens an error to its reason, as in "connection refused".
func inWords(text string) string {
	lines := strings.Split(text, "\n") // errors of several addresses
	var reasons []string
	for _, line := range lines {
		reason := operation.ReplaceAllString(strings.TrimSpace(line), "")
		if reason == "i/o timeout" {
			reason = "timed out"
		}
		if reason != "" && !slices.Contains(reasons, reason) {
			reasons = append(reasons, reason)
		}
	}
	return strings.Join(reasons, "; ")
}
