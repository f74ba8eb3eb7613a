package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slackerd/slacker/api"
	"github.com/slackerd/slacker/block"
)

func (a *app) man() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages",
		Long:   `man writes one manual page for each command into a directory, which it makes.`,
		Hidden: true,
		Example: `  slackerctl man /usr/local/share/man/man1
  man slackerctl-volume-create`,
		Args:                  wantArgs(1, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil { //nolint:gosec // manual pages are for everybody
				return block.Wrap(block.IO, err, "write manual pages")
			}
			pages := []string{}
			for _, c := range commands(cmd.Root()) {
				path := filepath.Join(args[0], manName(c)+".1")
				if err := writePage(path, c); err != nil {
					return block.Wrap(block.IO, err, "write manual pages")
				}
				pages = append(pages, path)
			}
			out := struct {
				Pages []string `json:"pages"`
			}{pages}
			return a.done(out, "%d manual pages written to %s", len(pages), args[0])
		},
	}
}

// commands returns a command and all below it that people are told of.
func commands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			all = append(all, commands(sub)...)
		}
	}
	return all
}

func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func writePage(path string, c *cobra.Command) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) //nolint:gosec // the user names the directory
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, page(c))
	return errors.Join(err, f.Close())
}

// page writes the manual page of a command in man(7) macros.
func page(c *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %q 1 \"\" %q \"Slacker\"\n", strings.ToUpper(manName(c)), "slackerctl "+programVersion())
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(manName(c)), roff(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(c.UseLine()))
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(strings.ReplaceAll(c.Long, "\n\n", "\n.PP\n")))
	if c.HasAvailableSubCommands() {
		b.WriteString(".SH COMMANDS\n")
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", roff(manName(sub)), roff(sub.Short))
			}
		}
	}
	b.WriteString(".SH OPTIONS\n")
	c.LocalFlags().VisitAll(func(f *pflag.Flag) { option(&b, f) })
	c.InheritedFlags().VisitAll(func(f *pflag.Flag) { option(&b, f) })
	fmt.Fprintf(&b, ".SH ENVIRONMENT\n.TP\n.B %s\naddress of the server where \\-\\-server names none\n", serverEnv)
	fmt.Fprintf(&b, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(c.Example))
	fmt.Fprintf(&b, ".SH EXIT STATUS\n.nf\n%s\n.fi\n", roff(api.ExitStatusHelp))
	return b.String()
}

func option(b *strings.Builder, f *pflag.Flag) {
	value, usage := pflag.UnquoteUsage(f)
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(strings.TrimSpace(name+" "+value)), roff(usage))
}

// roff keeps text from being taken for requests and escapes. Lines that begin
// with ".PP" are the only requests that text may hold.
func roff(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	s = strings.ReplaceAll(s, "-", `\-`)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if l != ".PP" && (strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'")) {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
