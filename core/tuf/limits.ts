/** Bounds on TUF metadata: checked by whoever makes it, and by a device before anything is parsed. */

export const TUF_LIMITS = {
  /** Five levels in metadata of ours; a parser's stack is never at stake below this. */
  depthMax: 16,
  /** Three root keys and four roles take 3 kB. */
  rootBytesMax: 32 * 1024,
  timestampBytesMax: 4 * 1024,
  /** One short entry for each delegated role. */
  snapshotBytesMax: 64 * 1024,
  /** targets.json with its delegations, and each delegated role: 0.4 kB a bundle. */
  targetsBytesMax: 256 * 1024,
  /** Keys in one file. */
  keysMax: 512,
  /** Keys that may sign for one role. */
  keysPerRoleMax: 16,
  signaturesMax: 32,
  /** Delegated roles: one a service. */
  delegationsMax: 256,
  /** Bundles of one service; old ones are withdrawn. */
  targetsPerRoleMax: 512,
  /** Roots in one push. A device further behind gets the older ones first, in pushes of roots alone. */
  rootsPerPushMax: 16,
  /** Files in one push: roots, timestamp, snapshot, targets, and the role of each service of an order. */
  filesPerPushMax: 48,
  /** Fits a gRPC message of 1 MiB. */
  pushBytesMax: 768 * 1024,
} as const
