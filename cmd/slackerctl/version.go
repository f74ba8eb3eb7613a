package main

import (
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker; without that it is what the Go tool knows.
var version = ""

func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:                   "version",
		Short:                 "Show the version of slackerctl",
		Long:                  `version shows the version of slackerctl. That of the server is in slackerctl status.`,
		Example:               `  slackerctl version`,
		Args:                  wantArgs(0, 0),
		DisableFlagsInUseLine: true,
		RunE: func(*cobra.Command, []string) error {
			out := struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{programVersion(), runtime.Version()}
			return a.answer(out, func(w io.Writer) { line(w, "slackerctl "+out.Version+" ("+out.Go+")") })
		},
	}
}
