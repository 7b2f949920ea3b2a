# Writes simulated.csv: R's Cox regressions of simulated patients. Run here: Rscript simulated.R FILE.csv [ANSWERS.csv]
library(survival)
args <- commandArgs(trailingOnly = TRUE)
d <- read.csv(args[1])
one <- function(x) {
  if (!any(x$event == 1)) return(NULL)
  said <- ""
  # R's own answer says whether it warns; the exact one is compared.
  withCallingHandlers(coxph(Surv(time, event) ~ high, x), warning = function(w) {
    said <<- conditionMessage(w); invokeRestart("muffleWarning") })
  fit <- suppressWarnings(coxph(Surv(time, event) ~ high, x, control = coxph.control(eps = 1e-13, iter.max = 100)))
  data.frame(seed = x$seed[1], coefficient = coef(fit), se = sqrt(vcov(fit)[1, 1]), loglik = fit$loglik[2],
             separated = grepl("infinite", said) || is.na(coef(fit)))
}
answers <- do.call(rbind, lapply(split(d, d$seed), one))
answers[c("coefficient", "se", "loglik")] <- lapply(answers[c("coefficient", "se", "loglik")], signif, 13)
write.csv(answers, if (length(args) > 1) args[2] else "simulated.csv", row.names = FALSE, quote = FALSE)
