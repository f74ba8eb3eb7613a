package main

import "github.com/spf13/cobra"

func spaceCommand() *cobra.Command  { return &cobra.Command{Use: "space"} }
func reportCommand() *cobra.Command { return &cobra.Command{Use: "report"} }
