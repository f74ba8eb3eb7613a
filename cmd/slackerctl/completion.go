package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/slackerd/slacker/block"
)

var shells = []string{"bash", "fish", "powershell", "zsh"}

func (a *app) completion() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Write a completion script for a shell",
		Long: `completion writes a script that completes commands, flags and the names of volumes
and snapshots, for bash, fish, powershell or zsh.`,
		Example: `  slackerctl completion bash > /etc/bash_completion.d/slackerctl
  slackerctl completion zsh > "${fpath[1]}/_slackerctl"`,
		Args:                  wantArgs(1, 1),
		DisableFlagsInUseLine: true,
		ValidArgs:             shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			var err error
			switch args[0] {
			case "bash":
				err = root.GenBashCompletionV2(a.stdout, true)
			case "fish":
				err = root.GenFishCompletion(a.stdout, true)
			case "powershell":
				err = root.GenPowerShellCompletionWithDesc(a.stdout)
			case "zsh":
				err = root.GenZshCompletion(a.stdout)
			default:
				return block.Errorf(block.Invalid, "completion: no shell %q: want one of %s", args[0], strings.Join(shells, ", "))
			}
			return block.Wrap(block.IO, err, "write the completion script")
		},
	}
}

// completeFlag completes the values of a flag.
func (a *app) completeFlag(cmd *cobra.Command, flag string, values []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(slices.Clone(values), cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic("slackerctl: " + err.Error()) // a flag that is not defined, or twice: a fault of this program
	}
}
