/**
 * What the text of a payload may not hold. The sandbox looks at the text, not at its meaning, so these are refused inside strings and
 * comments as well: `offbox bundle build` says so before anything is signed, and a device refuses to load the rest.
 */

export interface Forbidden {
  /** Line of the payload's text, from 1. */
  readonly line: number
  /** Character of that line, from 1. */
  readonly column: number
  readonly reason: string
}

const RULES: readonly { readonly pattern: RegExp; readonly reason: string }[] = [
  { pattern: /<!--|-->/, reason: 'an HTML comment ("<!--" or "-->") is refused, in strings and comments as well' },
  {
    pattern: /(?:^|[^.]|\.\.\.)\bimport(?=\s*(?:\(|\/[/*]))/,
    reason: '"import(" is refused, in strings and comments as well; a service has no modules to load',
  },
  { pattern: /(?:^|[^.])\beval(?=\s*\()/, reason: '"eval(" is refused, in strings and comments as well; use (0, eval) or new Function' },
]

/** The first thing in `code` that the sandbox refuses; the same rules as those of SES, by which it is judged in the end. */
export function findForbidden(code: string): Forbidden | undefined {
  const found = RULES.flatMap(({ pattern, reason }) => {
    const match = pattern.exec(code)
    // What stands before the word belongs to the match.
    return match ? [{ at: match.index + match[0].search(/[<\-ie]/), reason }] : []
  })
  const first = found.sort((a, b) => a.at - b.at)[0]
  if (!first) return undefined
  const before = code.slice(0, first.at).split('\n')
  return { line: before.length, column: (before.at(-1)?.length ?? 0) + 1, reason: first.reason }
}
