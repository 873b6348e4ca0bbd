//! An indexed Job of Kubernetes.

use super::Launch;
use crate::Result;
use serde_json::json;

/// What only Kubernetes wants to know.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    /// The container image.
    pub image: String,
    /// The volume claim that holds the run directory.
    pub claim: String,
    /// Where it is mounted.
    pub mount: String,
}

/// Where the lines of a container's script begin.
const INDENT: &str = "              ";

impl Launch {
    /// The manifest of an indexed Job.
    ///
    /// # Errors
    /// As [`Launch::slurm`].
    pub fn kubernetes(&self, kubernetes: &Kubernetes) -> Result<String> {
        let Kubernetes { image, claim, mount } = kubernetes;
        self.check([image, claim, mount])?;
        let script = self.choice(INDENT, "JOB_COMPLETION_INDEX");
        let command = self.command();
        let n_tasks = self.tasks.len();
        let parallel = self.parallel.unwrap_or(n_tasks).min(n_tasks);
        // JSON's strings are YAML's.
        let deadline = self.minutes.map(|m| format!("  activeDeadlineSeconds: {}\n", 60 * m));
        let cards = (self.gpus > 0).then(|| format!(", nvidia.com/gpu: {}", self.gpus));
        let resources = format!(
            "{{cpu: {}, memory: {}Mi{}}}",
            self.cpus,
            self.memory_mib,
            cards.unwrap_or_default()
        );
        Ok(format!(
            "\
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
spec:
  completionMode: Indexed
  completions: {n_tasks}
  parallelism: {parallel}
{deadline}  # A task that is begun again goes on from its last checkpoint.
  backoffLimitPerIndex: {retries}
  maxFailedIndexes: {n_tasks}
  podFailurePolicy:
    rules:
      # Being preempted is no failure.
      - action: Ignore
        onPodConditions: [{{type: DisruptionTarget, status: \"True\"}}]
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: xelm
          image: {image}
          command: [/bin/sh, -c]
          args:
            - |
{script}{INDENT}exec {command}
          resources:
            requests: {resources}
            limits: {resources}
          volumeMounts:
            - name: run
              mountPath: {mount}
      volumes:
        - name: run
          persistentVolumeClaim:
            claimName: {claim}
",
            name = self.name(),
            deadline = deadline.unwrap_or_default(),
            retries = self.retries,
            image = json!(image),
            claim = json!(claim),
            mount = json!(mount),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;

    #[test]
    fn kubernetes_manifests() {
        let kubernetes =
            Kubernetes { image: "x/xelm:1".into(), claim: "runs".into(), mount: "/data".into() };
        assert_eq!(
            example().kubernetes(&kubernetes).unwrap(),
            r#"apiVersion: batch/v1
kind: Job
metadata:
  name: xelm-run-1
spec:
  completionMode: Indexed
  completions: 3
  parallelism: 3
  # A task that is begun again goes on from its last checkpoint.
  backoffLimitPerIndex: 5
  maxFailedIndexes: 3
  podFailurePolicy:
    rules:
      # Being preempted is no failure.
      - action: Ignore
        onPodConditions: [{type: DisruptionTarget, status: "True"}]
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: xelm
          image: "x/xelm:1"
          command: [/bin/sh, -c]
          args:
            - |
              case "$JOB_COMPLETION_INDEX" in
                  0) set -- --expert de-en ;;
                  1) set -- --expert el ;;
                  2) set -- --dense ;;
                  *) echo "there is no task $JOB_COMPLETION_INDEX" >&2; exit 2 ;;
              esac
              exec xelm --threads 8 train --run '/data/my runs/Run_1' "$@" --steps 1000 --preset paper
          resources:
            requests: {cpu: 8, memory: 3000Mi}
            limits: {cpu: 8, memory: 3000Mi}
          volumeMounts:
            - name: run
              mountPath: "/data"
      volumes:
        - name: run
          persistentVolumeClaim:
            claimName: "runs"
"#
        );
        let more = Launch { gpus: 1, minutes: Some(90), parallel: Some(2), ..example() };
        let manifest = more.kubernetes(&kubernetes).unwrap();
        assert!(manifest.contains("  parallelism: 2\n  activeDeadlineSeconds: 5400\n"));
        assert!(manifest.contains("{cpu: 8, memory: 3000Mi, nvidia.com/gpu: 1}"));
    }
}
