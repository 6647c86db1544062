package caddyfile

import (
	"slices"
	"strings"
)

// readEventHook returns nil where the command is never to run. The original
// knows no enabled, and has no events unless some are listed.
func readEventHook(v value) *eventHookJSON {
	f, ok := v.mapping("enabled", "command", "args", "events", "timeout")
	if !ok {
		return nil
	}
	hook := &eventHookJSON{}
	if v, ok := f.need("command", commandExpected); ok {
		command, _ := v.word(commandExpected)
		hook.Command = hookText(v, command)
	}
	if v, ok := f.get("args"); ok {
		args, _ := v.list("a list of arguments")
		for _, arg := range args {
			s, ok := arg.scalar()
			if !ok || s.kind == scalarNull {
				arg.expected("text")
			}
			hook.Args = append(hook.Args, hookText(arg, s.text))
		}
	}
	if v, ok := f.get("events"); ok {
		hook.Events = readEvents(v)
	}
	timeout := DefaultHookTimeout
	if v, ok := f.get("timeout"); ok {
		timeout, _ = v.seconds(false)
	}
	hook.Timeout = duration(timeout)

	switch {
	case !f.enabled(true):
		v.rep.warn(v.line, v.at, "not enabled, so the command never runs; async-relay knows no such key and runs it")
		return nil
	case len(hook.Events) == 0:
		v.rep.warn(v.line, v.at, "has no effect: no events are listed, so the command never runs")
		return nil
	}
	return hook
}

// hookText is text for a command, whose braces are no placeholders.
func hookText(v value, text string) string {
	if err := checkArgument(text); err != nil {
		v.fail("%v", err)
	}
	return literal.Replace(text)
}

func readEvents(v value) (names []string) {
	what := "one of " + strings.Join(hookEvents, ", ")
	events, _ := v.list("a list of events, each " + what)
	for _, event := range events {
		name, ok := event.text(what)
		if ok && !slices.Contains(hookEvents, name) {
			event.expected(what)
		}
		names = append(names, name)
	}
	return names
}
